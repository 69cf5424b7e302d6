package scan

import (
	"fmt"
	"time"
)

// What one layer may cost. Whoever built a layer chose everything in it, so each number is the largest honest layer known, times
// a small factor; past it the layer has a gap of kind limit. They are facts of [gate.InventoryFormat]: changing one changes what
// a layer read again would yield.
const (
	// maxLayerBytes bounds the tar stream. The largest machine-learning layers come near 15 GiB.
	maxLayerBytes = 32 << 30
	// maxRatio bounds how much larger the tar stream is than the layer's bytes. Trees of text reach 20; deflate itself ends at
	// 1032 and zstd has no end.
	maxRatio = 200
	// ratioFloorBytes is the size up to which any ratio is tolerated: an image may hold a file of zeros.
	ratioFloorBytes = 1 << 30
	// maxWindowBytes bounds the memory of the zstd decoder: the window of `zstd --long=27`, the largest the tool decodes unasked.
	maxWindowBytes = 128 << 20
	// maxEntries bounds the tar entries. Images that unpack whole package archives reach half a million.
	maxEntries = 2_000_000
	// maxPathBytes is Linux's PATH_MAX, past which no runtime can create the file.
	maxPathBytes = 4096
	// maxFileBytes bounds a file that is read into memory. The largest Go binaries and fat jars stay below it.
	maxFileBytes = 256 << 20
	// maxArchiveBytes bounds what is unpacked of one Java archive and the archives in it.
	maxArchiveBytes = 256 << 20
	// maxArchiveDepth bounds archives within archives: an enterprise archive holds web archives that hold libraries.
	maxArchiveDepth = 4
	// maxOSReleaseBytes bounds os-release, which has some hundred bytes.
	maxOSReleaseBytes = 64 << 10
	// maxPackages bounds the packages of a layer, five times a large monorepo's node_modules.
	maxPackages = 50_000
	// maxHeldBytes bounds the names an inventory is made of, and so with maxPackages the inventory.
	maxHeldBytes = 24 << 20
	// maxLinkBytes bounds the symbolic links remembered while a layer is read; pnpm makes a hundred thousand.
	maxLinkBytes = 64 << 20
	// maxLinkHops is how many symbolic links are followed for one name, as many as runtimes follow.
	maxLinkHops = 255
	// maxLinkSteps bounds the components of names that are followed through symbolic links, some ten seconds of it. A pnpm tree of
	// half a million files takes a tenth.
	maxLinkSteps = 100_000_000
	// maxExaminedBytes bounds what is read of files. It is more than the tar stream only where files are sparse: one of 256 MiB takes a
	// kilobyte of it.
	maxExaminedBytes = maxLayerBytes
	// maxGaps bounds the gaps of a layer. The first denies already; the others are for whoever repairs the image.
	maxGaps = 500
	// maxSecretFileBytes bounds the files that are searched for secrets. Credentials lie in configuration, scripts and dumps; larger
	// files are media and databases, and are not a gap: what is looked for is what somebody forgot, not what somebody hides.
	maxSecretFileBytes = 1 << 20
	// maxSecrets bounds the secrets reported of a layer. The first denies already.
	maxSecrets = 200
	// maxQuoteBytes bounds what a gap repeats of the layer's own words.
	maxQuoteBytes = 300
)

// What the process that reads one layer may cost.
const (
	// maxOutputBytes bounds its answer: maxHeldBytes and the JSON around it.
	maxOutputBytes = 32 << 20
	// maxOutputValues bounds the values in its answer. Two bytes of JSON can become a struct of two hundred.
	maxOutputValues = 1 << 20
	// maxEndBytes bounds what it says once it has sent a layer's files: maxGaps of them, quoted twice.
	maxEndBytes = 4 << 20
	// relayTimeout is how long it may wait for whoever is shown the files it sends. Whoever waits for that has a deadline of his own.
	relayTimeout = 24 * time.Hour
	// maxComplaintBytes is how much of its standard error is kept for the log.
	maxComplaintBytes = 2 << 10
	// helloTimeout is how long it may take to start and confine itself: some ten milliseconds, on a machine that is not starved.
	helloTimeout = 30 * time.Second
	// busyTimeout is how long it may keep us waiting, not counting the time it waits for us: 32 GiB at a tenth of one core's speed.
	busyTimeout = 15 * time.Minute
	// maxCPUSeconds bounds its processor time, over all threads: four times what 32 GiB take.
	maxCPUSeconds = 600
	// softMemoryBytes is where its garbage collector starts to work hard: a file, an unpacked archive, and what reading them leaves.
	softMemoryBytes = 3 << 29
	// garbagePercent is how much it may leave lying about until then, of what it holds. It holds little as a rule, and collecting every
	// few megabytes takes the processor that decompression needs; beyond this nothing more is to be had.
	garbagePercent = 300
	// maxMemoryBytes bounds the writable memory it takes on top of what it starts with, maxAddressBytes its address space.
	maxMemoryBytes  = 2 << 30
	maxAddressBytes = 4 << 30
	// maxOpenFiles bounds its files: three streams, the Go runtime's own, an rpm database and its journal.
	maxOpenFiles = 64
)

// limitError says that a layer is past one of the limits above.
type limitError struct{ what string }

func (e *limitError) Error() string { return e.what }

func overLimit(format string, args ...any) error {
	return &limitError{fmt.Sprintf(format, args...)}
}
