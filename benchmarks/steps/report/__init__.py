"""The page of the step benchmarks, from its CSV files alone: a module for each section."""
