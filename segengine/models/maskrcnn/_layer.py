"""What our layers share: they carry the config, and a saved model brings it back."""

from __future__ import annotations

from typing import Any

from keras import layers

from segengine.models.maskrcnn.config import Config


class ConfiguredLayer(layers.Layer):
    """A layer without variables whose behaviour is the config's."""

    def __init__(self, config: Config | dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_jit = False  # numbers of boxes are not known beforehand
        self.config = config if isinstance(config, Config) else Config.from_dict(config)

    def get_config(self) -> dict[str, Any]:
        """JSON values that make an equal layer."""
        return {**super().get_config(), "config": self.config.to_dict()}
