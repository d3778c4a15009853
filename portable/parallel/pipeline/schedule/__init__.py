"""Pipeline schedules as pure tables: which rank computes what, in which order."""
