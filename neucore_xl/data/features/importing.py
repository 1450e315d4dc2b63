"""``neucore-xl features import``: features that others computed become a folder that ``backbone.features`` reads."""

from __future__ import annotations

from pathlib import Path

from neucore_xl.data.features.folder import FeatureFolder
from neucore_xl.data.features.sources import files_of, format_of, read_source
from neucore_xl.data.features.writer import FeatureFolderWriter, check_free
from neucore_xl.progress import track


def import_features(
    source: Path, out: Path, *, format: str = "auto", origin: str | None = None, half: bool = False
) -> FeatureFolder:
    """Read ``source`` (see ``sources``) and write the new folder ``out``; returns it, opened.

    ``origin``: where the features come from, in words; None: the name of ``source``. Raises ``UserError`` for a
    source that cannot be read, images that cannot be used, and an ``out`` that exists; nothing is left behind then.
    """
    check_free(out)
    kind = format_of(source) if format == "auto" else format
    total = 0 if kind == "datasets" else len(files_of(source, kind))
    with (
        FeatureFolderWriter(out, origin=origin or f"imported from {source.name} ({kind})", half=half) as writer,
        track("feature files", total) as advance,
    ):
        for name, tokens, pooled in read_source(source, kind, advance):
            writer.add(name, tokens, pooled)
    return FeatureFolder(out)
