"""Figures as TensorBoard event files, without the TensorBoard package."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class EventWriter:
    """Writes scalars; opened and closed as a context."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def __enter__(self) -> EventWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def scalar(self, name: str, value: float, step: int) -> None:
        """One point of a curve. The file is opened with the first."""
        import tensorflow as tf

        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self._folder))
        # What `tf.summary.scalar` writes; that function needs the TensorBoard package.
        summary = tf.compat.v1.SummaryMetadata
        metadata = summary(
            plugin_data=summary.PluginData(plugin_name="scalars"), data_class="DATA_CLASS_SCALAR"
        )
        with self._writer.as_default():
            tf.summary.write(name, tf.constant(value, tf.float32), step=step, metadata=metadata)
        self._writer.flush()
