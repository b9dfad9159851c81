import numpy as np
import pytest
import torch

from zeropoint.data import resolve
from zeropoint.data.batches import split
from zeropoint.errors import InputError
from zeropoint.models.source import Preprocessing, normal

SMALL = Preprocessing(resize=8, crop=(6, 6))
image_module = pytest.importorskip("PIL.Image")


def stacked(loader):
    inputs, labels = zip(*[split(batch) for batch in loader], strict=True)
    images = torch.cat([batch[0] for batch in inputs])
    return images, None if labels[0] is None else torch.cat(labels)


def rows(images):
    return {row.numpy().tobytes() for row in images}


def save_image(path, value, size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image_module.new("RGB", size, (value, value, value)).save(path)


def sort_images(folder, per_class=10):
    for rank, name in enumerate(("ant", "bee")):
        for index in range(per_class):
            save_image(folder / name / f"{index:02}.png", 20 * index + rank)


def test_digits_parts_are_disjoint_stratified_and_normalised():
    loaders = resolve("digits", batch_size=100)
    evaluation, labels = stacked(loaders.evaluation)
    train, train_labels = stacked(loaders.train)
    validation, _ = stacked(loaders.validation)
    calibration, no_labels = stacked(loaders.calibration)
    assert [len(part) for part in (train, validation, evaluation, calibration)] == [1000, 197, 600, 256]
    assert len(rows(torch.cat([train, validation, evaluation]))) == 1797
    assert rows(calibration) <= rows(train)
    assert no_labels is None
    assert evaluation.shape == (600, 1, 32, 32)
    assert evaluation.dtype == torch.float32
    shares = torch.bincount(labels) / 600 - torch.bincount(train_labels) / 1000
    assert shares.abs().max() < 0.005
    assert abs(train.mean()) < 0.02
    assert abs(train.std() - 1) < 0.02


def test_digits_are_upscaled_bilinearly():
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    small = load_digits().images[0] / 16  # (8, 8)
    # Pixel centres of the large image at (i + 0.5) / 4 - 0.5 in the small one, clamped at the border.
    position = np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7)
    weights = np.maximum(0, 1 - abs(position[:, None] - np.arange(8)))
    expected = (weights @ small @ weights.T - 0.305) / 0.324
    loaders = resolve("digits")
    everything = torch.cat(
        [stacked(part)[0] for part in (loaders.train, loaders.validation, loaders.evaluation)]
    )
    assert min(abs(everything[:, 0].double().numpy() - expected).max(axis=(1, 2))) < 1e-6


def test_the_seed_moves_calibration_but_never_evaluation():
    first, again, other = resolve("digits"), resolve("digits"), resolve("digits", seed=1)
    assert torch.equal(stacked(first.calibration)[0], stacked(again.calibration)[0])
    assert rows(stacked(first.calibration)[0]) != rows(stacked(other.calibration)[0])
    assert torch.equal(stacked(first.evaluation)[0], stacked(other.evaluation)[0])
    assert torch.equal(stacked(first.train)[1], stacked(again.train)[1])
    assert not torch.equal(stacked(first.train)[1], stacked(first.train)[1])


def test_limit_batches_cuts_every_part():
    loaders = resolve("digits", batch_size=16, limit_batches=2)
    for loader in (loaders.calibration, loaders.evaluation, loaders.train, loaders.validation):
        assert len(list(loader)) == 2


def test_one_image_folder_is_split_in_two(tmp_path):
    sort_images(tmp_path)
    loaders = resolve(f"imagefolder:{tmp_path}", batch_size=3, preprocessing=SMALL)
    calibration, calibration_labels = stacked(loaders.calibration)
    evaluation, labels = stacked(loaders.evaluation)
    assert len(calibration) == 4
    assert len(rows(torch.cat([calibration, evaluation]))) == 20
    assert evaluation.shape == (16, 3, 6, 6)
    assert set(labels[:5].tolist()) == {0, 1}  # not sorted by class
    assert len(labels) + len(calibration_labels) == 20
    assert loaders.train is None
    again = resolve(f"imagefolder:{tmp_path}", batch_size=3, preprocessing=SMALL)
    for part in (loaders, again):
        assert torch.equal(evaluation, stacked(part.evaluation)[0])
        assert torch.equal(calibration, stacked(part.calibration)[0])


def test_images_are_normalised_as_imagenet_is(tmp_path):
    sort_images(tmp_path, per_class=5)
    evaluation, labels = stacked(resolve(f"imagefolder:{tmp_path}", preprocessing=SMALL).evaluation)
    grey = evaluation.double() * torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    grey = (grey + torch.tensor([0.485, 0.456, 0.406])[:, None, None]) * 255
    assert (grey - grey.round()).abs().max() < 1e-3
    assert torch.equal(grey[:, 0, 0, 0].round().long() % 20, labels)  # as sort_images painted them


def test_images_are_prepared_as_the_model_says(tmp_path):
    for name in ("ant", "bee"):
        for index in range(5):
            save_image(tmp_path / name / f"{index}.png", 51 * index, size=(40, 20))
            image = image_module.open(tmp_path / name / f"{index}.png")
            image.paste((255, 255, 255), (0, 0, 20, 20))  # the left half is white
            image.save(tmp_path / name / f"{index}.png")
    squashed = Preprocessing(
        resize=(8, 8), crop=(8, 8), mean=(0.0,) * 3, std=(0.5,) * 3, interpolation="nearest"
    )
    evaluation, _ = stacked(resolve(f"imagefolder:{tmp_path}", preprocessing=squashed).evaluation)
    assert evaluation.shape[1:] == (3, 8, 8)
    assert (evaluation[..., :4] == 2).all()
    assert {round(value * 5) for value in evaluation[..., 4:].unique().tolist()} <= {0, 2, 4, 6, 8}


def test_train_and_val_folders_are_used_as_such(tmp_path):
    sort_images(tmp_path / "train")
    sort_images(tmp_path / "val", per_class=8)
    loaders = resolve(f"imagefolder:{tmp_path}", preprocessing=SMALL)
    sizes = [len(stacked(part)[0]) for part in (loaders.train, loaders.validation, loaders.evaluation)]
    assert sizes == [18, 2, 16]
    labels = stacked(loaders.evaluation)[1]
    assert set(labels[:5].tolist()) == {0, 1}  # not sorted by class
    again = resolve(f"imagefolder:{tmp_path}", preprocessing=Preprocessing(resize=8))
    assert torch.equal(labels, stacked(again.evaluation)[1])
    assert rows(stacked(loaders.calibration)[0]).isdisjoint(rows(stacked(loaders.validation)[0]))
    save_image(tmp_path / "val" / "cat" / "0.png", 0)
    with pytest.raises(InputError, match="class cat is in only one"):
        resolve(f"imagefolder:{tmp_path}")


def test_an_unreadable_image_is_named(tmp_path):
    sort_images(tmp_path)
    for path in tmp_path.glob("*/*.png"):
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=r"cannot read the image .*ant.*\.png"):
        list(resolve(f"imagefolder:{tmp_path}").evaluation)


def test_folders_without_images_are_told(tmp_path):
    with pytest.raises(InputError, match=r"^no such folder: .*nowhere; give imagefolder:DIR"):
        resolve(f"imagefolder:{tmp_path}/nowhere")
    with pytest.raises(InputError, match="one folder per class"):
        resolve(f"imagefolder:{tmp_path}")
    save_image(tmp_path / "ant" / "0.png", 0)
    with pytest.raises(InputError, match="only 1 images"):
        resolve(f"imagefolder:{tmp_path}")


def test_random_inputs_are_the_same_every_time_and_never_twice_within():
    loaders = resolve("random:2x4", batch_size=5)
    calibration, labels = stacked(loaders.calibration)
    evaluation, _ = stacked(loaders.evaluation)
    assert calibration.shape == (40, 2, 4)
    assert labels is None
    assert len(rows(torch.cat([calibration, evaluation]))) == 80
    assert torch.equal(calibration, stacked(loaders.calibration)[0])
    assert next(iter(resolve("random", batch_size=1).evaluation)).shape == (1, 3, 224, 224)
    assert next(iter(resolve("random", batch_size=1, inputs=normal(7)).evaluation)).shape == (1, 7)


@pytest.mark.parametrize(
    "spec", ["random:", "random:3x", "random:axb", "random:0x3", "digit", "imagefolder:"]
)
def test_unknown_data_is_told(spec):
    with pytest.raises(InputError, match=spec):
        resolve(spec)


USER = """
import torch
from torch.utils.data import DataLoader, TensorDataset
good = [(torch.zeros(2, 3), torch.tensor([0, 1]))]
data = TensorDataset(torch.zeros(4, 3))
def make_loaders():
    return {}
"""


def test_loaders_of_the_users_file(tmp_path):
    (tmp_path / "mine.py").write_text(
        USER.format("{'calibration': good, 'evaluation': DataLoader(data), 'train': None}")
    )
    loaders = resolve(f"{tmp_path}/mine.py:make_loaders", limit_batches=3)
    assert len(list(loaders.calibration)) == 1
    assert len(list(loaders.evaluation)) == 3
    assert loaders.train is None
    assert (loaders.mean, loaders.std, loaders.sample_rate) == ((), (), None)


def test_facts_of_the_users_file_come_along(tmp_path):
    facts = "{'calibration': good, 'evaluation': good, 'mean': [0.5], 'std': [0.25], 'sample_rate': 8000}"
    (tmp_path / "mine.py").write_text(USER.format(facts))
    loaders = resolve(f"{tmp_path}/mine.py:make_loaders")
    assert (loaders.mean, loaders.std, loaders.sample_rate) == ((0.5,), (0.25,), 8000)


def test_named_data_knows_its_normalization(tmp_path):
    sort_images(tmp_path)
    folder = resolve(f"imagefolder:{tmp_path}", preprocessing=SMALL)
    assert (folder.mean, folder.std) == (SMALL.mean, SMALL.std)
    digits = resolve("digits")
    assert (digits.mean, digits.std) == ((0.305,), (0.324,))


def test_loaders_without_a_length_are_cut(tmp_path):
    (tmp_path / "mine.py").write_text(
        USER.format("{name: Stream() for name in ('calibration', 'evaluation', 'train', 'validation')}")
        + """
class Stream:
    def __iter__(self): return iter(good * 4)
    def __len__(self): raise TypeError("no length")
"""
    )
    loaders = resolve(f"{tmp_path}/mine.py:make_loaders", limit_batches=2)
    for loader in (loaders.calibration, loaders.evaluation, loaders.train, loaders.validation):
        assert len(list(loader)) == 2


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        ("[good, good]", "returned a list"),
        ("{'calibration': good}", "no evaluation loader"),
        ("{'calibration': good, 'evaluation': good, 'trian': good}", "did you mean train"),
        ("{'calibration': iter(good), 'evaluation': good}", "calibration loader .* reads only once"),
        ("{'calibration': data, 'evaluation': good}", "wrap the data in a DataLoader"),
        ("{'calibration': good, 'evaluation': []}", "evaluation loader .* yields no batch"),
        ("{'calibration': [{}], 'evaluation': good}", "calibration loader .* a dict"),
        (
            "{'calibration': good, 'evaluation': DataLoader(data, shuffle=True)}",
            "evaluation .* shuffle=False",
        ),
        ("{'calibration': good, 'evaluation': good, 'mean': 0.5}", "mean .* is 0.5; give a number for each"),
        (
            "{'calibration': good, 'evaluation': good, 'mean': [0.5]}",
            r"mean \(0.5,\) and std \(\); give both",
        ),
        ("{'calibration': good, 'evaluation': good, 'sample_rate': 0}", "sample_rate .* is 0; give samples"),
        ("{'calibration': good, 'evaluation': good, 'sample_rate': '8k'}", "sample_rate .* is '8k'"),
    ],
)
def test_what_is_wrong_with_the_users_loaders_is_told(tmp_path, returned, told):
    (tmp_path / "mine.py").write_text(USER.format(returned))
    with pytest.raises(InputError, match=told):
        resolve(f"{tmp_path}/mine.py:make_loaders")


def test_what_is_read_is_said(tmp_path):
    sort_images(tmp_path / "one")
    for part in ("train", "val"):
        sort_images(tmp_path / "two" / part)
    (tmp_path / "mine.py").write_text(USER.format("{'calibration': good, 'evaluation': good}"))
    mine = f"{tmp_path}/mine.py:make_loaders"
    prepared = "resized to 8, cropped to 6x6, mean (0.485, 0.456, 0.406), std (0.229, 0.224, 0.225)"
    expected = {
        f"imagefolder:{tmp_path}/one": f"20 images in 2 classes, {prepared}",
        f"imagefolder:{tmp_path}/two": f"20 images to evaluate and 20 to train on in 2 classes, {prepared}",
        "digits": "600 images to evaluate and 1,000 to train on in 10 classes, scaled to 32x32,"
        " mean (0.305), std (0.324)",
        "random:3x8x8": "random inputs such as float32 (1, 3, 8, 8)",
        mine: f"{mine}, whose first batch is float32 (2, 3), int64 (2,)",
    }
    said = []
    for spec in expected:
        resolve(spec, preprocessing=SMALL, say=said.append)
    assert said == [f"data: {line}" for line in expected.values()]
    resolve("random:8", limit_batches=2, say=said.append)
    assert said[-1].endswith("(1, 8); at most 2 of its batches in each part")
