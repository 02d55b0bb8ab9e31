"""The record, in the database it describes. Each file goes with the `.sql` file of the same name.

Functions take a connection and run in whatever transaction it is in; none of them commits.
"""
