"""Whether runs may stand in one table: equal settings, runs of other settings, and what runs say of themselves."""
