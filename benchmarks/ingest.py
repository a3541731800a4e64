"""Ingest beside ``datasets`` doing the same: ``python -m benchmarks.ingest``.

Both read every record of one source, decode every image to its end, and store conversations and
image bytes in a table. Each run is a process of its own; the two take turns, imports are not
counted, and the best of each pair's repeats is compared, as the machine is shared.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.pipeline import describe_setting

_SIDE = 336
_QUESTION = "<image>\nDescribe the image."
_OURS, _THEIRS = "bye-audit", "datasets"


def main() -> None:
    """Measure every format and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--formats", nargs="+", choices=list(WRITERS), default=list(WRITERS))
    parser.add_argument("--cores", type=int, default=1, help="cores that both may use")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_one(*options.one)))
        return
    results = []
    with tempfile.TemporaryDirectory(prefix="bye-audit-benchmark-") as folder:
        for name in options.formats:
            source = WRITERS[name](Path(folder) / name, options.rows)
            results.append(compare(name, source, options.rows, options.repeats, options.cores))
    record = {
        **describe_setting(),
        "rows": options.rows,
        "cores": options.cores,
        "results": results,
    }
    print(json.dumps(record, indent=1) if options.json else as_table(record))


def compare(name: str, source: Path, num_rows: int, repeats: int, cores: int) -> dict[str, Any]:
    """Let both convert a source in turn."""
    runs: dict[str, list[dict[str, float]]] = {_OURS: [], _THEIRS: []}
    for _ in range(repeats):
        for who, done in runs.items():
            command = [sys.executable, "-m", "benchmarks.ingest", "--one", who, name, str(source)]
            pinned = ["taskset", "-c", ",".join(map(str, range(cores)))]
            found = subprocess.run([*pinned, *command], check=True, capture_output=True, text=True)
            done.append(json.loads(found.stdout.splitlines()[-1]))
    best = {who: min(done, key=lambda run: run["seconds"]) for who, done in runs.items()}
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(*runs.values(), strict=True)]
    return {
        "format": name,
        "num_bytes": _size(source.parent),
        "rows_per_second": {who: num_rows / run["seconds"] for who, run in best.items()},
        "peak_mb": {who: run["peak_mb"] for who, run in best.items()},
        "ratio": float(np.median(ratios)),
        "ratios": ratios,
    }


def run_one(who: str, name: str, source: str) -> dict[str, float]:
    """Convert once in this process."""
    convert = _prepare(who, name)
    with tempfile.TemporaryDirectory(prefix="bye-audit-benchmark-") as out:
        started = time.monotonic()
        convert(Path(source), Path(out))
        seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "peak_mb": peak}


def _prepare(who: str, name: str) -> Callable[[Path, Path], None]:
    """Import what is needed and give the conversion."""
    if who == _THEIRS:
        import datasets

        datasets.disable_progress_bars()
        return lambda source, out: convert_with_datasets(name, source, out)
    from bye_audit.ingest import ingest_samples
    from bye_audit.store.tables import AuditTables

    def convert(source: Path, out: Path) -> None:
        ingest_samples(AuditTables.create(out / "audit"), [source])

    return convert


def convert_with_datasets(name: str, source: Path, out: Path) -> None:
    """Do with ``datasets`` what ingest does: read, decode every image, write a table with both."""
    import datasets

    cache = str(out / "cache")
    if name == "arrow":
        dataset = datasets.load_from_disk(str(source))
    else:
        kind = {"jsonl": "json", "data URL": "json"}.get(name, name)
        dataset = datasets.load_dataset(
            kind, data_files=str(source), split="train", cache_dir=cache
        )
    if name == "data URL":
        dataset = dataset.map(
            lambda row: {"image": {"bytes": _decode(row["image"]), "path": None}},
            remove_columns=["image"],
        )
    elif name in ("json", "jsonl", "csv"):
        root = f"{source.parent}/"
        dataset = dataset.map(lambda row: {"image": root + row["image"]})
    column = "jpg" if name == "webdataset" else "image"
    dataset = dataset.cast_column(column, datasets.Image())
    for row in dataset:
        assert row[column].size == (_SIDE, _SIDE)
    dataset.to_parquet(str(out / "all.parquet"))


def _decode(url: str) -> bytes:
    return base64.b64decode(url.partition(",")[2])


# --- sources ------------------------------------------------------------------------------------


def draw_jpegs(number: int) -> Iterator[bytes]:
    """Draw small photographs' like: smooth colours with some grain, all of them different."""
    rng = np.random.default_rng(0)
    for _ in range(number):
        coarse = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((_SIDE, _SIDE)), dtype=np.int16)
        grain = rng.integers(-6, 7, smooth.shape, dtype=np.int16)
        buffer = io.BytesIO()
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(buffer, "JPEG")
        yield buffer.getvalue()


def _records(folder: Path, number: int) -> list[dict[str, Any]]:
    """Write image files and give LLaVA records that name them."""
    (folder / "images").mkdir(parents=True)
    found = []
    for row, content in enumerate(draw_jpegs(number)):
        path = f"images/{row:06d}.jpg"
        (folder / path).write_bytes(content)
        found.append({"id": row, "image": path, "conversations": _turns(row)})
    return found


def _turns(row: int) -> list[dict[str, str]]:
    return [
        {"from": "human", "value": _QUESTION},
        {"from": "gpt", "value": f"answer number {row}"},
    ]


def write_json(folder: Path, number: int) -> Path:
    """Write a LLaVA JSON array."""
    path = folder / "train.json"
    records = _records(folder, number)
    path.write_text(json.dumps(records, indent=1))
    return path


def write_jsonl(folder: Path, number: int) -> Path:
    """Write JSON lines that name image files."""
    path = folder / "train.jsonl"
    records = _records(folder, number)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def write_data_urls(folder: Path, number: int) -> Path:
    """Write JSON lines with the images in base64."""
    folder.mkdir(parents=True)
    path = folder / "train.jsonl"
    with path.open("w") as file:
        for row, content in enumerate(draw_jpegs(number)):
            url = f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
            file.write(json.dumps({"id": row, "image": url, "conversations": _turns(row)}) + "\n")
    return path


def write_csv(folder: Path, number: int) -> Path:
    """Write a table that names image files."""
    path = folder / "train.csv"
    rows = [f"{one['id']},{one['image']},what?,answer {one['id']}\n" for one in
            _records(folder, number)]  # fmt: skip
    path.write_text("id,image,question,answer\n" + "".join(rows))
    return path


def write_webdataset(folder: Path, number: int) -> Path:
    """Write one tar shard of images and captions."""
    folder.mkdir(parents=True)
    path = folder / "train-000000.tar"
    with tarfile.open(path, "w") as archive:
        for row, content in enumerate(draw_jpegs(number)):
            for ending, part in (("jpg", content), ("txt", f"answer {row}".encode())):
                info = tarfile.TarInfo(f"{row:06d}.{ending}")
                info.size = len(part)
                archive.addfile(info, io.BytesIO(part))
    return path


def _table(number: int) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {"image": {"bytes": content, "path": None}, "conversations": _turns(row)}
            for row, content in enumerate(draw_jpegs(number))
        ]
    )


def write_parquet(folder: Path, number: int) -> Path:
    """Write Parquet with image bytes, 100 rows a group."""
    folder.mkdir(parents=True)
    path = folder / "train.parquet"
    pq.write_table(_table(number), path, row_group_size=100)
    return path


def write_saved(folder: Path, number: int) -> Path:
    """Save a dataset as ``datasets`` does."""
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset(_table(number)).save_to_disk(str(folder / "saved"))
    return folder / "saved"


WRITERS: dict[str, Callable[[Path, int], Path]] = {
    "json": write_json,
    "jsonl": write_jsonl,
    "data URL": write_data_urls,
    "csv": write_csv,
    "webdataset": write_webdataset,
    "parquet": write_parquet,
    "arrow": write_saved,
}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def as_table(record: dict[str, Any]) -> str:
    """One row a format."""
    lines = [
        "| format | MB | rows/s | MB/s | theirs, rows/s | times as fast | peak MB | theirs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in record["results"]:
        speed, peak = one["rows_per_second"], one["peak_mb"]
        lines.append(
            f"| {one['format']} | {one['num_bytes'] / 1e6:.0f} | {speed[_OURS]:,.0f} "
            f"| {speed[_OURS] * one['num_bytes'] / 1e6 / record['rows']:.0f} "
            f"| {speed[_THEIRS]:,.0f} | {one['ratio']:.1f} "
            f"({min(one['ratios']):.1f} to {max(one['ratios']):.1f}) "
            f"| {peak[_OURS]:.0f} | {peak[_THEIRS]:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
