"""The small program that holds the CLIs of a host, and the client that talks to it.

Standard library only: it must outlive every deploy of the server.
"""
