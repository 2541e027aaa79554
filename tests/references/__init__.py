"""What `make families-check` compares with: models with random weights, and what their own code finds.

`export` and what it imports run in an environment of their own, without any module of Streamfleet.
"""
