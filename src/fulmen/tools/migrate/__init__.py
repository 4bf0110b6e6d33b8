"""`fulmen migrate`: a script of any era, rewritten to today's names, arguments and hooks."""
