"""How programs find the shared libraries that travel with them: in lib/ beside their folder.

An old-fashioned RPATH, because it also counts for what the libraries themselves need.
"""

BUNDLE_LINKOPTS = ["-Wl,--disable-new-dtags,-rpath,'$$ORIGIN/../lib'"]
