"""What train.py, inference.py and xai.py share. Importing the package imports nothing else."""

__version__ = "0.1.0"
