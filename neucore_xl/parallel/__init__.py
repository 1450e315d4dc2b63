"""Processes that train or evaluate together: how they were started, how they find each other, how they agree."""
