"""The LightningModules: one thin file a stage."""
