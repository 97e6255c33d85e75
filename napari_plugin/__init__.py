"""The napari plugin of medseg; it translates between viewer and engine and computes nothing."""
