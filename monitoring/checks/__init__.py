"""What the application answers, recorded at one moment of a run and compared at later ones."""
