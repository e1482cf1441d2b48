"""Which concepts a layer is made of, and where in the pictures they are."""
