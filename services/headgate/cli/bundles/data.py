"""Which outcomes a command reads, and what it says when they will not do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer
from rich.console import Console

from headgate.cli.state import CommandError, State

if TYPE_CHECKING:
    from headgate.router.bundle import Bundle
    from headgate.router.offline.datasets import Listed, Outcomes

OutcomesOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        help="A folder with queries.csv and outcomes.csv, or a .csv, .jsonl, .json or .parquet file."
    ),
]
LedgerOption: TypeAlias = Annotated[
    bool,
    typer.Option("--from-ledger", help="Your own traffic: labelled shadow samples, see `headgate outcomes`."),
]
TenantOption: TypeAlias = Annotated[
    list[str] | None, typer.Option("--tenant", help="With --from-ledger: whose samples; may be repeated.")
]
SinceOption: TypeAlias = Annotated[
    datetime | None,
    typer.Option(formats=["%Y-%m-%d"], help="With --from-ledger: requests of this day (UTC) or later."),
]
UntilOption: TypeAlias = Annotated[
    datetime | None, typer.Option(formats=["%Y-%m-%d"], help="With --from-ledger: requests before this day.")
]
SourceOption: TypeAlias = Annotated[
    str, typer.Option(help="Whose tables (SOURCE.queries.csv), where the folder has several.")
]
DatasetOption: TypeAlias = Annotated[
    list[str] | None, typer.Option("--dataset", help="Only this dataset; may be repeated.")
]
LabelOption: TypeAlias = Annotated[str, typer.Option(help="The column that is the score.")]
DraftsOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--with-drafts",
        help="Also read the cheaper models' answers, responses.csv beside the tables, as drafts.",
    ),
]
ExcludeOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--exclude", help='Leave out queries by a column: "subject=law"; may be repeated.'),
]
ModelOption: TypeAlias = Annotated[
    list[str] | None, typer.Option("--model", help="Only this model; may be repeated. All are taken else.")
]
PricesOption: TypeAlias = Annotated[
    Path | None, typer.Option(help="CSV: model, usd_per_m_input, usd_per_m_output[, version].")
]
SeedOption: TypeAlias = Annotated[int, typer.Option(help="Seed of every split and draw.")]
DayOption: TypeAlias = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"])]

console = Console(stderr=True, highlight=False, soft_wrap=True)
"""Where progress is told."""


@contextmanager
def plain_errors() -> Iterator[None]:
    """Bad data, bad bundles and missing packages as one sentence each."""
    from headgate.router.errors import RouterError

    try:
        from headgate.router.offline.datasets import DataError

        yield
    except (DataError, RouterError) as error:
        raise CommandError(str(error)) from error
    except ModuleNotFoundError as error:
        raise CommandError(
            f'{error.name} is not installed; pip install "headgate[server,cpu,train]"'
        ) from error


@contextmanager
def tables(
    state: State,
    path: Path | None,
    from_ledger: bool,
    tenants: list[str] | None,
    since: datetime | None,
    until: datetime | None,
) -> Iterator[Path]:
    """Where the outcomes lie for the time of a block: the user's path, or the ledger's samples as tables."""
    if from_ledger == (path is not None):
        raise CommandError("give either --outcomes PATH or --from-ledger")
    if path is not None:
        yield path
        return
    from headgate.cli.outcomes import folder, source

    period = (instant(since) or 0.0, inf if until is None else until.replace(tzinfo=UTC).timestamp())
    labelled = source.labelled(state.load(), state.environ, tenants or (), None, *period)
    with folder.temporary(labelled) as written:
        yield written


def read(
    path: Path,
    source: str = "",
    dataset: list[str] | None = None,
    models: list[str] | None = None,
    label: str = "score",
    exclude: list[str] | None = None,
) -> Outcomes:
    """The outcomes that the options name, checked for what no training can use."""
    from headgate.router.offline import datasets, formats

    outcomes = formats.read(
        path, source=source, datasets=dataset or (), models=models or (), label=label, exclude=exclude or ()
    )
    datasets.check(outcomes)
    return outcomes


def with_drafts(table: Outcomes, path: Path, source: str, models: list[str]) -> Outcomes:
    """The queries with recorded answers of these models; says how many have none."""
    from headgate.router.offline import datasets, drafts

    found = drafts.read(path, source, table, models)
    missing = len(table) - len(found)
    if missing:
        console.print(f"{missing:,} of {len(table):,} queries have no recorded draft and are left out")
    datasets.check(found)
    return found


def read_prices(path: Path | None, beside: Path) -> dict[str, Listed]:
    """The price table, by default prices.csv beside the outcomes; CommandError if there is none."""
    from headgate.router.offline import datasets

    folder = beside if beside.is_dir() else beside.parent
    found = path or folder / "prices.csv"
    if path is None and not found.is_file():
        raise CommandError(f"there is no {found}; give --prices: model, usd_per_m_input, usd_per_m_output")
    return datasets.read_prices(found)


def read_bundle(path: Path) -> Bundle:
    """The bundle in a file; a CommandError names the file."""
    from headgate.router import bundle as bundles

    if not path.is_file():
        raise CommandError(f"there is no file {path}")
    return bundles.load(path.read_bytes())


def write(path: Path, data: bytes) -> None:
    """The whole file or nothing: a half-written bundle must never be found."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)


def instant(day: datetime | None) -> float | None:
    """POSIX seconds at which a day begins, UTC."""
    return None if day is None else day.replace(tzinfo=UTC).timestamp()


def today() -> float:
    """POSIX seconds at which today began, UTC."""
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
