"""Plain patterns of other networks: graphs, recommenders, experts, points, tables, control, and odd calls."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .spec import Architecture, Inputs, Noise, tokens

WIDTH = 32


def mlp(*widths: int) -> nn.Sequential:
    layers = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


class GraphNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.message, self.update, self.head = (
            mlp(2 * WIDTH, 64, WIDTH),
            mlp(2 * WIDTH, 64, WIDTH),
            nn.Linear(WIDTH, 4),
        )

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        source, target = edges
        for _ in range(2):
            messages = self.message(torch.cat([nodes[source], nodes[target]], -1))
            total = torch.zeros_like(nodes).index_add(0, target, messages)
            nodes = nodes + self.update(torch.cat([nodes, total], -1))
        return self.head(nodes.mean(0, keepdim=True))


class GraphAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project, self.score, self.head = (
            nn.Linear(WIDTH, WIDTH),
            nn.Linear(2 * WIDTH, 1),
            nn.Linear(WIDTH, 4),
        )

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        source, target = edges
        x = self.project(nodes)
        weights = F.leaky_relu(self.score(torch.cat([x[source], x[target]], -1)), 0.2).exp()
        total = x.new_zeros(x.shape[0], 1).scatter_add(0, target[:, None], weights)
        out = torch.zeros_like(x).scatter_add(0, target[:, None].expand(-1, WIDTH), weights * x[source])
        return self.head(F.elu(out / (total + 1e-6)))


class DenseGraph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, WIDTH), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor, links: Tensor) -> Tensor:
        links = links.sigmoid()
        links = links / links.sum(-1, keepdim=True)
        return self.second(links @ F.relu(self.first(links @ x)))


class Recommender(nn.Module):
    """Wide and deep: embedding bags of sets, embeddings of single features, and dense values."""

    def __init__(self) -> None:
        super().__init__()
        self.sets, self.user = nn.EmbeddingBag(100, 16, mode="mean"), nn.Embedding(50, 16)
        self.wide, self.deep = nn.Linear(8, 1), mlp(40, 64, 32, 1)

    def forward(self, history: Tensor, user: Tensor, dense: Tensor) -> Tensor:
        deep = self.deep(torch.cat([self.sets(history), self.user(user), dense], 1))
        return torch.sigmoid(self.wide(dense) + deep)


class Interactions(nn.Module):
    """DLRM: products of all pairs of embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.tables, self.bottom = nn.ModuleList([nn.Embedding(40, 16) for _ in range(4)]), mlp(8, 32, 16)
        self.top = mlp(26, 32, 1)
        self.register_buffer("pairs", torch.tril_indices(5, 5, -1))

    def forward(self, dense: Tensor, sparse: Tensor) -> Tensor:
        bottom = self.bottom(dense)
        rows = torch.stack([bottom, *(table(sparse[:, i]) for i, table in enumerate(self.tables))], 1)
        products = torch.bmm(rows, rows.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]
        return self.top(torch.cat([bottom, products], 1))


class FactorizationMachine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.factors = nn.Linear(20, 1), nn.Parameter(torch.randn(20, 8) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        products = (x @ self.factors).square() - x.square() @ self.factors.square()
        return self.linear(x) + 0.5 * products.sum(1, keepdim=True)


class Experts(nn.Module):
    """All experts as one three-dimensional weight, of which the best two of each token count."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, 4)
        self.up = nn.Parameter(torch.randn(4, WIDTH, 64) / math.sqrt(WIDTH))
        self.down = nn.Parameter(torch.randn(4, 64, WIDTH) / 8)

    def forward(self, x: Tensor) -> Tensor:
        best, chosen = self.router(x).topk(2, -1)
        weights = torch.zeros_like(self.router(x)).scatter(-1, chosen, best.softmax(-1))
        inner = F.gelu(torch.einsum("btd,edh->beth", x, self.up))
        out = torch.einsum("beth,ehd->betd", inner, self.down)
        return x + torch.einsum("betd,bte->btd", out, weights)


class SparseExperts(nn.Module):
    """Experts as modules, all run, mixed by a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = (
            nn.Linear(WIDTH, 3),
            nn.ModuleList([mlp(WIDTH, 64, WIDTH) for _ in range(3)]),
        )

    def forward(self, x: Tensor) -> Tensor:
        out = torch.stack([expert(x) for expert in self.experts], -1)
        return (out * self.router(x).softmax(-1).unsqueeze(-2)).sum(-1)


class PointNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = [
            nn.Conv1d(3, 32, 1),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.Conv1d(32, 64, 1),
            nn.BatchNorm1d(64),
        ]
        self.points, self.turn = nn.Sequential(*layers, nn.ReLU()), mlp(64, 32, 9)
        self.head = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 10))

    def forward(self, points: Tensor) -> Tensor:
        turn = self.turn(self.points(points).max(2).values).view(-1, 3, 3) + torch.eye(3)
        return self.head(self.points(turn @ points).max(-1)[0]).log_softmax(-1)


class DeepSets(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = mlp(6, 32, 32), mlp(32, 32, 4)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.inner(x) * mask.unsqueeze(-1)
        return self.outer(x.sum(1) / mask.sum(1, keepdim=True).clamp(min=1))


class Tabular(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tables, self.norm = nn.ModuleList([nn.Embedding(n, 4) for n in (5, 9, 17)]), nn.BatchNorm1d(6)
        self.layers = nn.Sequential(nn.Linear(18, 32), nn.ReLU(), nn.BatchNorm1d(32), nn.Linear(32, 2))

    def forward(self, categories: Tensor, values: Tensor) -> Tensor:
        found = [table(categories[:, i]) for i, table in enumerate(self.tables)]
        return self.layers(torch.cat([*found, self.norm(values)], 1))


class Nerf(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.density = mlp(39, 64, 64), mlp(64 + 39, 64, 64), nn.Linear(64, 1)
        self.colour = nn.Sequential(nn.Linear(64 + 3, 32), nn.ReLU(), nn.Linear(32, 3), nn.Sigmoid())

    def forward(self, place: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        angles = place.unsqueeze(-1) * 2.0 ** torch.arange(6)
        code = torch.cat([place, angles.sin().flatten(-2), angles.cos().flatten(-2)], -1)
        x = self.second(torch.cat([self.first(code), code], -1))
        return self.colour(torch.cat([x, F.normalize(direction, dim=-1)], -1)), F.relu(self.density(x))


class Siren(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 64), nn.Linear(64, 64), nn.Linear(64, 3)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = torch.sin(3.0 * layer(x))
        return self.layers[-1](x)


class ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.policy, self.value = mlp(12, 64, 64), nn.Linear(64, 3), nn.Linear(64, 1)
        self.spread = nn.Parameter(torch.zeros(3))

    def forward(self, observation: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        x = torch.tanh(self.body(observation))
        mean = self.policy(x)
        return (mean, self.spread.exp().expand_as(mean)), self.value(x).squeeze(-1)


class Flow(nn.Module):
    """A normalizing flow: coupling layers, and the logarithm of the determinant."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([mlp(4, 32, 8) for _ in range(4)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(x.shape[0])
        for layer in self.layers:
            kept, moved = x.chunk(2, 1)
            scale, shift = layer(kept).chunk(2, 1)
            scale = torch.tanh(scale)
            x, total = torch.cat([moved * scale.exp() + shift, kept], 1), total + scale.sum(1)
        return x, total


class MixtureDensity(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.heads = (
            mlp(8, 64, 64),
            nn.ModuleDict({n: nn.Linear(64, 5) for n in ("pi", "mu", "sigma")}),
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x = F.relu(self.body(x))
        pi, mu, sigma = (self.heads[name](x) for name in ("pi", "mu", "sigma"))
        sigma = F.softplus(sigma) + 0.1
        return torch.logsumexp(pi.log_softmax(1) - 0.5 * ((y - mu) / sigma).square() - sigma.log(), 1)


class Unrolled(nn.Module):
    """A neural ODE with fixed steps: the same layers four times."""

    def __init__(self) -> None:
        super().__init__()
        self.field, self.head = mlp(9, 64, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        for step in range(4):
            time = torch.full_like(x[:, :1], step / 4)
            x = x + 0.25 * self.field(torch.cat([x, time], 1))
        return self.head(x)


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.real, self.imaginary, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.view_as_complex(x.unflatten(-1, (16, 2)))
        real = self.real(z.real) - self.imaginary(z.imag)
        imaginary = self.real(z.imag) + self.imaginary(z.real)
        return self.head(torch.complex(real, imaginary).abs())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.embed = nn.Linear(20, 8), nn.Embedding(30, 8)
        self.bias = nn.Parameter(torch.zeros(20))

    def forward(self, x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        code = torch.relu(self.encoder(x)) + self.embed(ids)
        return F.linear(code, self.encoder.weight.t(), self.bias), F.linear(code, self.embed.weight)


class DictInOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.text, self.head = nn.Conv2d(3, 16, 3, 2), nn.Embedding(50, 16), nn.Linear(32, 5)

    def forward(self, image: Tensor, ids: Tensor) -> dict[str, Tensor]:
        image, text = F.relu(self.image(image)).mean((2, 3)), self.text(ids).mean(1)
        return {"logits": self.head(torch.cat([image, text], 1)), "embedding": F.normalize(image, dim=-1)}


class OptionalKwargs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(16, WIDTH), nn.Linear(16, WIDTH), nn.Linear(WIDTH, 4)

    def forward(
        self, x: Tensor, context: Tensor | None = None, *, mask: Tensor | None = None, scale: float = 0.5
    ) -> Tensor:
        y = self.a(x)
        if context is not None:
            y = y + scale * self.b(context)
        if mask is not None:
            y = y.masked_fill(mask.unsqueeze(-1) == 0, 0.0)
        return self.head(F.relu(y))


class Contrastive(nn.Module):
    """CLIP: two towers, and the cosine of every pair in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = (
            nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.GELU(), nn.Conv2d(16, 32, 2, 2)),
            nn.Embedding(60, 32),
        )
        self.left, self.right, self.scale = (
            nn.Linear(32, 16, bias=False),
            nn.Linear(32, 16, bias=False),
            nn.Parameter(torch.tensor(2.0)),
        )

    def forward(self, image: Tensor, ids: Tensor) -> Tensor:
        image = F.normalize(self.left(self.image(image).mean((2, 3))), dim=-1)
        text = F.normalize(self.right(self.text(ids)[:, -1]), dim=-1)
        return self.scale.exp() * image @ text.t()


class Kernel(nn.Module):
    """Radial basis functions, and prototypes by distance."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.centres, self.head = (
            mlp(8, 32, 16),
            nn.Parameter(torch.randn(12, 16)),
            nn.Linear(12, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        distance = (self.body(x).unsqueeze(1) - self.centres).square().sum(-1)
        return self.head(torch.exp(-distance / 16))


class Capsules(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.primary = nn.Conv2d(3, 32, 9, 4), nn.Conv2d(32, 32, 5, 3)
        self.routes = nn.Parameter(torch.randn(4 * 16, 5, 8, 8) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        capsules = self.primary(F.relu(self.stem(x))).view(x.shape[0], -1, 8)
        votes = torch.einsum("bni,ncoi->bnco", capsules, self.routes[: capsules.shape[1]])
        logits = torch.zeros_like(votes[..., 0])
        for _ in range(2):
            total = (logits.softmax(2).unsqueeze(-1) * votes).sum(1)
            norm = total.norm(dim=-1, keepdim=True)
            out = total * norm / (1 + norm.square())
            logits = logits + (votes * out.unsqueeze(1)).sum(-1)
        return out


def patterns() -> list[Architecture]:
    edges = Noise((2, 40), 20, batch=None)
    table: dict[str, tuple[object, Inputs]] = {
        "graph-network": (GraphNetwork, (Noise((20, WIDTH), batch=None), edges)),
        "graph-attention": (GraphAttention, (Noise((20, WIDTH), batch=None), edges)),
        "dense-graph": (DenseGraph, (Noise((10, 16)), Noise((10, 10)))),
        "recommender-bags": (Recommender, (tokens(6, 100), Noise((), 50), Noise((8,)))),
        "interactions": (Interactions, (Noise((8,)), tokens(4, 40))),
        "factorization-machine": (FactorizationMachine, (Noise((20,)),)),
        "experts-one-weight": (Experts, (Noise((10, WIDTH)),)),
        "experts-modules": (SparseExperts, (Noise((10, WIDTH)),)),
        "point-net": (PointNet, (Noise((3, 64)),)),
        "deep-sets": (DeepSets, (Noise((12, 6)), Noise((12,), 2))),
        "tabular": (Tabular, (tokens(3, 5), Noise((6,)))),
        "nerf": (Nerf, (Noise((3,)), Noise((3,)))),
        "siren": (Siren, (Noise((2,)),)),
        "actor-critic": (ActorCritic, (Noise((12,)),)),
        "normalizing-flow": (Flow, (Noise((8,)),)),
        "mixture-density": (MixtureDensity, (Noise((8,)), Noise((1,)))),
        "neural-ode": (Unrolled, (Noise((8,)),)),
        "complex-numbers": (Complex, (Noise((32,)),)),
        "tied-weights": (Tied, (Noise((20,)), Noise((), 30))),
        "dict-in-out": (DictInOut, {"image": Noise((3, 32, 32)), "ids": tokens(6, 50)}),
        "optional-keywords": (OptionalKwargs, {"x": Noise((6, 16)), "mask": Noise((6,), 2)}),
        "contrastive": (Contrastive, (Noise((3, 32, 32)), tokens(8, 60))),
        "capsules": (Capsules, (Noise((3, 64, 64)),)),
        "radial-basis": (Kernel, (Noise((8,)),)),
    }
    return [Architecture(f"pattern/{name}", build, inputs) for name, (build, inputs) in table.items()]
