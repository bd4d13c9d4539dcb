"""The papers' experiments on CUB-200-2011, CARS196 and Stanford Online Products."""
