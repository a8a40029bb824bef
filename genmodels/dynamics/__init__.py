"""Ordinary differential equations: solvers, and models that are defined by one."""
