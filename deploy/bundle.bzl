"""How programs find the shared libraries that travel with them: in lib/ beside their folder."""

BUNDLE_LINKOPTS = ["-Wl,-rpath,'$$ORIGIN/../lib'"]
