"""What people look at: reports, pictures and tables made from the files of a workdir or a dataset."""
