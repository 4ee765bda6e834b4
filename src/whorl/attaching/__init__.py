"""JOINS: an encoding and a host. `joining` attaches and detaches, `reading` reads back, `saving` and `loading` keep."""
