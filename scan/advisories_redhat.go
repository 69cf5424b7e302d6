package scan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
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

// redHatProducts are the numbers of the products Red Hat's advisories are about.
type redHatProducts struct {
	// releases maps a major release to the products an image is taken to be of that does not say more.
	releases map[string]map[int]bool
	// repositories and builds map what an image may say to the products it stands for.
	repositories, builds map[string][]int
}

// genericSuffix matches what Red Hat's build system puts behind the name of a repository, "…-rpms__8".
var genericSuffix = regexp.MustCompile(`__\d+$`)

// products returns the numbers of the products that packages from channels are of, on a release. Where channels say nothing the data
// knows, everything of the release counts.
func (p redHatProducts) products(major string, channels []string) map[int]bool {
	numbers := map[int]bool{}
	for _, channel := range channels {
		listed := p.repositories[genericSuffix.ReplaceAllString(channel, "")]
		if build, ok := strings.CutPrefix(channel, buildPrefix); ok {
			listed = p.builds[build]
		}
		for _, n := range listed {
			numbers[n] = true
		}
	}
	if len(numbers) == 0 {
		return p.releases[major]
	}
	return numbers
}

// readRedHatProducts reads which products repositories, builds and releases stand for. An image rarely says which repositories its
// packages are from, so of a release everything proper counts; extended-support products, whose fixes have other versions, do not.
func readRedHatProducts(tx *bolt.Tx) (p redHatProducts, err error) {
	root := tx.Bucket([]byte(redHatCPEBucket))
	if root == nil {
		return redHatProducts{}, nil
	}
	if p.repositories, err = readNumbers(root.Bucket([]byte(cpeRepositoryBucket))); err != nil {
		return redHatProducts{}, err
	}
	if p.builds, err = readNumbers(root.Bucket([]byte(cpeBuildBucket))); err != nil {
		return redHatProducts{}, err
	}
	p.releases = map[string]map[int]bool{}
	for _, major := range redHatReleases {
		numbers := map[int]bool{}
		for _, repository := range redHatRepositories(major) {
			for _, n := range p.repositories[repository] {
				numbers[n] = true
			}
		}
		if err := addNamedCPEs(numbers, root.Bucket([]byte(cpeNameBucket)), major); err != nil {
			return redHatProducts{}, err
		}
		p.releases[major] = numbers
	}
	return p, nil
}

func readNumbers(b *bolt.Bucket) (map[string][]int, error) {
	numbers := map[string][]int{}
	if b == nil {
		return numbers, nil
	}
	return numbers, b.ForEach(func(name, text []byte) error {
		var listed []int
		if err := json.Unmarshal(text, &listed); err != nil {
			return fmt.Errorf("reading the CPEs of %q: %w", name, err)
		}
		numbers[string(name)] = listed
		return nil
	})
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
