package scan

import (
	"cmp"
	"encoding/json"
	"path"
	"regexp"
	"slices"
	"strings"
)

// maxChannelBytes bounds a file that says where packages are from. Content manifests list some thousand packages.
const maxChannelBytes = 4 << 20

// maxChannels bounds what one such file says; Red Hat's largest images list some tens.
const maxChannels = 1000

// channelReader returns what the file at p says about where system packages are from; nil for a file that says no such thing. What
// is malformed says nothing: matching then takes for granted what images usually are.
func channelReader(p string) func(p string, data []byte) []string {
	if !strings.HasPrefix(p, "var/lib/ubuntu-") && !strings.HasPrefix(p, "etc/apk/") && !strings.Contains(p, "/buildinfo/") {
		return nil // as nearly every file
	}
	switch dir := path.Dir(p); {
	case p == "var/lib/ubuntu-advantage/status.json":
		return ubuntuServices
	case p == "etc/apk/repositories":
		return alpineRepositories
	case (dir == "root/buildinfo/content_manifests" || dir == "usr/share/buildinfo") && path.Ext(p) == ".json":
		return redHatContentSets
	case dir == "root/buildinfo" && strings.HasPrefix(path.Base(p), "Dockerfile-"):
		return redHatBuild
	default:
		return nil
	}
}

// ubuntuServices returns the services of Ubuntu Pro that are enabled: "esm-infra", whose packages have advisories of their own.
func ubuntuServices(_ string, data []byte) (services []string) {
	var status object
	var all []object
	if json.Unmarshal(data, &status) != nil || json.Unmarshal(status["services"], &all) != nil {
		return nil
	}
	for _, service := range all {
		if text(service["status"]) == "enabled" && text(service["name"]) != "" {
			services = append(services, text(service["name"]))
		}
	}
	return services
}

var alpineRepository = regexp.MustCompile(`^(?:@\S+\s+)?(?:https?|ftp)://[^/\s]+/(?:[^\s]*/)?alpine/v?([0-9]+\.[0-9]+|edge)/`)

// alpineRepositories returns "alpine 3.19" for each release apk takes packages from.
func alpineRepositories(_ string, data []byte) (releases []string) {
	for line := range strings.Lines(string(data)) {
		if parts := alpineRepository.FindStringSubmatch(strings.TrimSpace(line)); parts != nil {
			releases = append(releases, "alpine "+parts[1])
		}
	}
	return releases
}

// redHatContentSets returns the repositories a layer of Red Hat's was built from, by the manifest its build system left.
func redHatContentSets(_ string, data []byte) []string {
	var manifest object
	if json.Unmarshal(data, &manifest) != nil {
		return nil
	}
	return texts(manifest["content_sets"])
}

// buildPrefix begins what tells of a build of Red Hat's.
const buildPrefix = "nvr:"

var (
	buildComponent = regexp.MustCompile(`"?com\.redhat\.component"?\s*=\s*"?([A-Za-z0-9._+-]+)"?`)
	buildArch      = regexp.MustCompile(`(?:^|\s)"?architecture"?\s*=\s*"?([A-Za-z0-9_]+)"?`)
	buildRelease   = regexp.MustCompile(`-([^-]+-[^-]+)$`)
)

// redHatBuild returns "nvr:ubi9-container-9.4-1214-x86_64" of the Dockerfile a layer was built by, "Dockerfile-ubi9-9.4-1214": what
// advisories about products that have no repositories of their own are filed under.
func redHatBuild(p string, data []byte) []string {
	component, arch := buildComponent.FindSubmatch(data), buildArch.FindSubmatch(data)
	release := buildRelease.FindStringSubmatch(path.Base(p))
	if component == nil || arch == nil || release == nil {
		return nil
	}
	return []string{buildPrefix + string(component[1]) + "-" + release[1] + "-" + string(arch[1])}
}

// channelsOf returns what read says of the file at p, each once, in order, and what can be written as JSON.
func channelsOf(p string, data []byte, read func(string, []byte) []string) []string {
	channels := slices.DeleteFunc(read(p, data), func(channel string) bool { return len(channel) > maxQuoteBytes })
	for i, channel := range channels {
		channels[i] = strings.ToValidUTF8(channel, "\uFFFD")
	}
	slices.SortFunc(channels, cmp.Compare[string])
	channels = slices.Compact(channels)
	return channels[:min(len(channels), maxChannels)]
}
