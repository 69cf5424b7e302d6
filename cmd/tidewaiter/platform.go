package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tidewaiter/tidewaiter/oci"
)

// platform is what an operator asks for of an index: an operating system and an architecture, and perhaps its variant.
type platform struct{ os, architecture, variant string }

// parsePlatform reads os/architecture or os/architecture/variant. No part may be empty.
func parsePlatform(s string) (platform, error) {
	parts := strings.Split(s, "/")
	if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
		return platform{}, fmt.Errorf("platform %.100q is not os/architecture or os/architecture/variant", s)
	}
	p := platform{os: parts[0], architecture: parts[1]}
	if len(parts) == 3 {
		p.variant = parts[2]
	}
	return p, nil
}

// parsePlatforms reads several.
func parsePlatforms(all []string) ([]platform, error) {
	var platforms []platform
	for _, s := range all {
		p, err := parsePlatform(s)
		if err != nil {
			return nil, err
		}
		platforms = append(platforms, p)
	}
	return platforms, nil
}

func (p platform) String() string {
	return strings.TrimSuffix(p.os+"/"+p.architecture+"/"+p.variant, "/")
}

// matches reports whether a child of an index that says it is for of is what p asks for. Without a variant p asks for any.
func (p platform) matches(of oci.Platform) bool {
	return p.os == of.OS && p.architecture == of.Architecture && (p.variant == "" || p.variant == of.Variant)
}

// childrenFor returns the children of an index for platforms, in its order, and after them those that say nothing of a platform,
// which clients may take for any. missing are the platforms that have no child; none of an index with children for any.
func childrenFor(children []oci.Descriptor, platforms []platform) (found []oci.Digest, missing []platform) {
	var anywhere []oci.Digest
	for _, d := range children {
		switch {
		case d.Platform == nil || d.Platform.OS == "" && d.Platform.Architecture == "":
			anywhere = append(anywhere, d.Digest)
		case slices.ContainsFunc(platforms, func(p platform) bool { return p.matches(*d.Platform) }):
			found = append(found, d.Digest)
		}
	}
	if len(anywhere) > 0 {
		return append(found, anywhere...), nil
	}
	for _, p := range platforms {
		if !slices.ContainsFunc(children, func(d oci.Descriptor) bool { return p.matches(*d.Platform) }) {
			missing = append(missing, p)
		}
	}
	return found, missing
}
