"""The api: the door for people and programs, over HTTP and on the command line."""
