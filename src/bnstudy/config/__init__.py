"""What a run is: its schema, its name, its components, and how it is composed from files and overrides."""
