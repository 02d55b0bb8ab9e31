"""The record, in the database it describes. Each file is the twin of a `.sql` file.

Functions take a connection and run in whatever transaction it is in; none of them commits.
"""
