"""Settings: one typed tree (``schema``), recipes and overrides (``load``), their reference page (``reference``)."""

from neucore_xl.config.schema import Settings

__all__ = ["Settings"]
