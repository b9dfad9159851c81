"""How arrays differ: prepared images in words, and outputs in dB."""

import numpy as np

SAME_PIXELS = 0.02  # of the inputs' deviation: decoders of JPEG differ by less
ROUNDING = 1e-4  # of the largest value: what is below zero by less is zero
ALIKE = 0.98  # correlation of images that differ by scale and offset alone


def difference(wanted: np.ndarray, found: np.ndarray) -> str | None:
    """What is wrong with prepared images (N, C, H, W), in words; None if they are as good as equal."""
    if found.shape != wanted.shape:
        if found.ndim == 4 and found.transpose(0, 3, 1, 2).shape == wanted.shape:
            return f"shape {found.shape} has the channels last; transpose to {wanted.shape}"
        return f"shape {found.shape} and not {wanted.shape}"
    wanted, found = wanted.astype(np.float64), found.astype(np.float64)
    if np.abs(wanted - found).max() <= SAME_PIXELS * wanted.std():
        return None
    problems, alike = [], _correlation(wanted, found)
    if wanted.ndim == 4 and wanted.shape[1] == 3 and _correlation(wanted[:, ::-1], found) > max(alike, ALIKE):
        problems.append("red and blue are swapped")
        wanted = wanted[:, ::-1]
    elif alike < ALIKE:
        return f"the values correlate by {alike:.2f} alone; look at size, crop and interpolation"
    if np.abs(wanted - found).max() > SAME_PIXELS * wanted.std():
        low, high = found.min(), found.max()
        if low >= -ROUNDING * high and high > 1.5:
            problems.append(
                "values go from 0 to 255: they are not divided by 255, nor normalized by mean and std"
            )
        elif low >= -ROUNDING * high:
            problems.append("values go from 0 to 1: they are not normalized by mean and std")
        else:
            problems.append(
                "mean or std are others" if not problems else "and mean and std are of swapped channels"
            )
    return ", ".join(problems)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """The least correlation of a channel of two batches (N, C, H, W)."""
    axis = 1 if one.ndim > 1 else 0
    pairs = zip(np.moveaxis(one, axis, 0), np.moveaxis(other, axis, 0), strict=True)
    with np.errstate(all="ignore"):
        return float(min(np.nan_to_num(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in pairs))


def sqnr_db(wanted: np.ndarray, found: np.ndarray) -> float:
    """Signal to quantization noise, in dB; minus infinity for another shape, or NaN in other places."""
    if wanted.shape != found.shape or not np.array_equal(np.isnan(wanted), np.isnan(found)):
        return -np.inf
    finite = np.isfinite(wanted) & np.isfinite(found)
    noise = float(((wanted[finite].astype(np.float64) - found[finite]) ** 2).sum())
    signal = float((wanted[finite].astype(np.float64) ** 2).sum())
    return np.inf if noise == 0 else float(10 * np.log10(max(signal, 1e-300) / noise))
