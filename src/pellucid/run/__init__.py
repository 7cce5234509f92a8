"""All hyperparameters of a run: collected, with where each comes from, compared and re-created."""
