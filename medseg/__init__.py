"""medseg: give it a scan and a model; get named organs, counted objects, measures and exact files."""
