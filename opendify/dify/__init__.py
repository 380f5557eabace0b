"""Dify's side of the waist: which apps there are, how a run is asked for, what its events mean."""
