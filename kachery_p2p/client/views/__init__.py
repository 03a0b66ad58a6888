"""Views: small web applications that are stored like any folder, and opened by a link."""
