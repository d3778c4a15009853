"""Pipeline parallelism: tables that say who computes what when, the cut into stages, and what runs them."""
