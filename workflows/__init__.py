"""The commands: shells around the library, which never imports them."""
