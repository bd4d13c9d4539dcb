"""What tests compare with: brute force, the papers' algorithms, problems, shapes."""
