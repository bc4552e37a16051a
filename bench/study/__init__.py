"""The methods of the paper on one bench: tuned alike, repeated over seeds, tested in pairs.

``python -m bench.study --data FOLDER --results RUNS`` runs what is not there yet and
prints the table.
"""
