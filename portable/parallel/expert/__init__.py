"""Expert parallelism: ranks own different experts of a layer, and tokens travel to them."""
