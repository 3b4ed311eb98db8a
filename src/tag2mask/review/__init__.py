"""A page on this machine to look at a run's photos and masks, decide on them and correct them (`tag2mask review`)."""
