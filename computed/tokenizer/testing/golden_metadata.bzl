"""The metadata of the golden vocabularies as JSON."""

def golden_metadata(name, vocabularies, srcs, visibility = None):
    """A filegroup of one NAME.json for each vocabulary file NAME.

    Args:
      name: the filegroup's name.
      vocabularies: names of files of `srcs`.
      srcs: the label of a filegroup.
      visibility: as everywhere.
    """
    for vocabulary in vocabularies:
        native.genrule(
            name = vocabulary + "_json",
            testonly = True,
            srcs = [srcs],
            outs = [vocabulary + ".json"],
            cmd = "for f in $(locations " + srcs + "); do case $$f in" +
                  " */" + vocabulary + ") /usr/bin/python3" +
                  " $(location gguf_metadata_to_json.py) $$f > $@;; esac; done",
            tools = ["gguf_metadata_to_json.py"],
        )
    native.filegroup(
        name = name,
        testonly = True,
        srcs = [vocabulary + ".json" for vocabulary in vocabularies],
        visibility = visibility,
    )
