"""Settings: one typed tree (``schema``), named recipes and overrides (``load``), and its reference page (``reference``)."""

from neucore_xl.config.schema import Settings

__all__ = ["Settings"]
