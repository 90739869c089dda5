"""Adapters to other libraries. Each imports its library at the top; none is imported unless it is used."""
