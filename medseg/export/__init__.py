"""Results as files that others open: tables, DICOM objects, meshes, pages."""
