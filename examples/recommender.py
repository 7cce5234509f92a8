"""A recommender: two tables with lazy row-wise Adagrad and a dense tower with AdamW, one optimizer.

Ratings are made here from hidden factors, with a few popular items and many that hardly anyone
rates. A batch touches some rows of the tables; only these are read and written, and the state of a
row is one number. ``python examples/recommender.py`` trains, checks itself against the mean of each
item's ratings, and goes on from a checkpoint bit for bit.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

import pellucid
import pellucid.torch
from pellucid import AdamW, RowwiseAdagrad, route

USERS, ITEMS, WIDTH = 10_000, 20_000, 16
BATCH = 1024


class Ratings(NamedTuple):
    """Who rated what, and how: vectors of the same length."""

    users: Tensor
    items: Tensor
    stars: Tensor


def made_ratings(count: int = 140_000, factors: int = 3, seed: int = 0) -> tuple[Ratings, Ratings]:
    """Ratings to train on, and a seventh of all to be held out.

    A rating is 3.5, a user's and an item's bias, the product of their hidden factors, and noise of
    0.3. The item of rank r is rated in proportion to 1 / r (Zipf), the user of rank r rates in
    proportion to r^-0.7.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(shape, generator=generator)

    def drawn(rows: int, skew: float) -> Tensor:
        popularity = torch.arange(1, rows + 1, dtype=torch.float64) ** -skew
        ranks = torch.multinomial(popularity, count, replacement=True, generator=generator)
        return torch.randperm(rows, generator=generator)[ranks]

    users, items = drawn(USERS, 0.7), drawn(ITEMS, 1.0)
    likes, traits = normal(USERS, factors), normal(ITEMS, factors, scale=factors**-0.5)
    stars = 3.5 + normal(USERS, scale=0.4)[users] + normal(ITEMS, scale=0.5)[items]
    stars += (likes[users] * traits[items]).sum(dim=1) + normal(count, scale=0.3)
    kept = count * 6 // 7
    return (
        Ratings(users[:kept], items[:kept], stars[:kept]),
        Ratings(users[kept:], items[kept:], stars[kept:]),
    )


class Recommender(nn.Module):
    """A row for each user and each item, and a tower over both rows and their product."""

    def __init__(self) -> None:
        super().__init__()
        self.users = nn.Embedding(USERS, WIDTH, sparse=True)
        self.items = nn.Embedding(ITEMS, WIDTH, sparse=True)
        self.tower = nn.Sequential(nn.Linear(3 * WIDTH, 32), nn.ReLU(), nn.Linear(32, 1))
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=0.3)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Stars, one number for each pair of a user and an item."""
        user, item = self.users(users), self.items(items)
        stars: Tensor = self.tower(torch.cat([user, item, user * item], dim=1))
        return 3.5 + stars.squeeze(1)


def optimizer_of(model: Recommender) -> pellucid.torch.Optimizer:
    """One optimizer: what updates a parameter is chosen by its name, the first match wins."""
    stages = route({
        "users.*": RowwiseAdagrad(0.1),
        "items.*": RowwiseAdagrad(0.1),
        "*": AdamW(3e-3),
    })  # fmt: skip
    return pellucid.torch.Optimizer(model, stages, sparse="lazy")


def train_epoch(
    model: Recommender, optimizer: torch.optim.Optimizer, ratings: Ratings, epoch: int
) -> float:
    """One pass over the ratings in the epoch's own order; the mean of the squared errors."""
    order = torch.randperm(len(ratings.stars), generator=torch.Generator().manual_seed(epoch))
    total = 0.0
    for some in order.split(BATCH):
        optimizer.zero_grad()
        predicted = model(ratings.users[some], ratings.items[some])
        loss = (predicted - ratings.stars[some]).square().mean()
        loss.backward()
        optimizer.step()
        total += float(loss.detach()) * len(some)
    return total / len(order)


@torch.no_grad()
def error(model: Recommender, ratings: Ratings) -> float:
    """Root of the mean squared error, in stars."""
    predicted = model(ratings.users, ratings.items)
    return float((predicted - ratings.stars).square().mean().sqrt())


def baseline(train: Ratings, held_out: Ratings) -> float:
    """The error of each item's mean rating; where an item has none, of the mean of all."""
    sums = torch.zeros(ITEMS).index_add_(0, train.items, train.stars)
    counts = torch.bincount(train.items, minlength=ITEMS)
    means = torch.where(counts > 0, sums / counts, train.stars.mean())
    return float((means[held_out.items] - held_out.stars).square().mean().sqrt())


def save(file: Path, model: Recommender, optimizer: torch.optim.Optimizer, epoch: int) -> None:
    """All that training needs to go on: one file."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
    torch.save(state, file)


def load(file: Path) -> tuple[Recommender, pellucid.torch.Optimizer, int]:
    """The model, the optimizer and the number of epochs that are done."""
    state = torch.load(file, weights_only=True)
    model = Recommender()
    model.load_state_dict(state["model"])
    optimizer = optimizer_of(model)
    optimizer.load_state_dict(state["optimizer"])
    return model, optimizer, state["epoch"]


def state_bytes(optimizer: torch.optim.Optimizer, table: nn.Embedding) -> int:
    """Memory of what the optimizer keeps for a table."""
    return sum(slot.nbytes for slot in optimizer.state[table.weight].values())


def moved(before: Tensor, table: nn.Embedding) -> Tensor:
    """Which rows of a table differ from before in any bit."""
    return (before != table.weight.detach()).any(dim=1)


def equal(one: Recommender, other: Recommender) -> bool:
    """Whether all parameters are the same, bit for bit."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=4, help="two or more")
    parser.add_argument("--seed", type=int, default=0, help="of data and model")
    given = parser.parse_args(arguments)
    if given.epochs < 2:
        parser.error("--epochs: two or more, so that there is a checkpoint on the way")

    train, held_out = made_ratings(seed=given.seed)
    torch.manual_seed(given.seed)
    model = Recommender()
    optimizer = optimizer_of(model)
    tables = {"users": model.users, "items": model.items}
    before = {name: table.weight.detach().clone() for name, table in tables.items()}

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recommender.pt"
        for epoch in range(given.epochs):
            loss = train_epoch(model, optimizer, train, epoch)
            print(f"epoch {epoch + 1}  loss {loss:.3f}  held out {error(model, held_out):.3f}")
            if epoch == 0:
                for name, table in tables.items():
                    touched, rows = int(moved(before[name], table).sum()), len(before[name])
                    print(f"  {name}: {touched:,} of {rows:,} rows touched")
            if epoch + 1 == given.epochs // 2:
                save(file, model, optimizer, epoch + 1)
        resumed, its_optimizer, done = load(file)
    print(f"held out, the mean of each item instead: {baseline(train, held_out):.3f}")

    for epoch in range(done, given.epochs):
        train_epoch(resumed, its_optimizer, train, epoch)
    print(f"resumed after epoch {done}, the same bit for bit: {equal(model, resumed)}")

    for name, table in tables.items():
        ours, adams = state_bytes(optimizer, table), 2 * table.weight.nbytes
        print(f"state of {name}: {ours:,} bytes; Adam's would be {adams:,}")
    print(pellucid.view(optimizer, model=model))


if __name__ == "__main__":
    main()
