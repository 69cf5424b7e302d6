package scan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	bolt "go.etcd.io/bbolt"
)

// redHatReleases are the major releases whose products are looked up.
var redHatReleases = []string{"6", "7", "8", "9", "10"}

// redHatRepositories maps a major release to the repositories every installation of it has.
func redHatRepositories(major string) []string {
	switch major {
	case "6", "7":
		return []string{"rhel-" + major + "-server-rpms", "rhel-" + major + "-server-extras-rpms"}
	default:
		return []string{"rhel-" + major + "-for-x86_64-baseos-rpms", "rhel-" + major + "-for-x86_64-appstream-rpms"}
	}
}

// readRedHatCPEs returns, for each major release, the numbers of the products it stands for. An image rarely says which
// repositories its packages are from, so everything of the release proper counts; extended-support products, whose fixes have other
// versions, do not.
func readRedHatCPEs(tx *bolt.Tx) (map[string]map[int]bool, error) {
	root := tx.Bucket([]byte(redHatCPEBucket))
	if root == nil {
		return nil, nil
	}
	releases := map[string]map[int]bool{}
	for _, major := range redHatReleases {
		numbers := map[int]bool{}
		if err := addRepositoryCPEs(numbers, root.Bucket([]byte(cpeRepositoryBucket)), major); err != nil {
			return nil, err
		}
		if err := addNamedCPEs(numbers, root.Bucket([]byte(cpeNameBucket)), major); err != nil {
			return nil, err
		}
		releases[major] = numbers
	}
	return releases, nil
}

func addRepositoryCPEs(numbers map[int]bool, b *bolt.Bucket, major string) error {
	if b == nil {
		return nil
	}
	for _, repository := range redHatRepositories(major) {
		text := b.Get([]byte(repository))
		if text == nil {
			continue
		}
		var listed []int
		if err := json.Unmarshal(text, &listed); err != nil {
			return fmt.Errorf("reading the CPEs of %s: %w", repository, err)
		}
		for _, n := range listed {
			numbers[n] = true
		}
	}
	return nil
}

func addNamedCPEs(numbers map[int]bool, b *bolt.Bucket, major string) error {
	if b == nil {
		return nil
	}
	return b.ForEach(func(number, text []byte) error {
		var n int
		var name string
		if err := errors.Join(json.Unmarshal(number, &n), json.Unmarshal(bytes.TrimSpace(text), &name)); err != nil {
			return fmt.Errorf("reading CPE %q: %w", number, err)
		}
		if isRedHatRelease(name, major) {
			numbers[n] = true
		}
		return nil
	})
}

// isRedHatRelease reports whether a CPE, "cpe:/o:redhat:enterprise_linux:9::baseos", is of release major or a minor release of it.
func isRedHatRelease(cpe, major string) bool {
	parts := strings.Split(cpe, ":")
	if len(parts) < 5 || parts[0] != "cpe" || parts[2] != "redhat" {
		return false
	}
	if parts[3] != "enterprise_linux" && parts[3] != "rhel_extras" {
		return false
	}
	release, _, _ := strings.Cut(parts[4], ".")
	return release == major
}
