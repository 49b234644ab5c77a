"""Several processes in one run: every collective lives here."""
