"""The command line: parse, call, print. The only part that prints, exits and sets the process up."""
