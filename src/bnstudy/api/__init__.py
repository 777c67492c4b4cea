"""What `bnstudy` offers in Python: tables, runs and claims as frames; training in process; probes on any network."""
