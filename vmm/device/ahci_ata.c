/* SPDX-License-Identifier: Apache-2.0 */
/* The SATA disk (ATA8-ACS): which commands there are, and what it says of itself. */
#include <stdio.h>
#include <string.h>

#include "base/compiler.h"
#include "device/ahci_parts.h"

enum {
	CMD_READ_SECTORS = 0x20,
	CMD_READ_SECTORS_EXT = 0x24,
	CMD_READ_DMA_EXT = 0x25,
	CMD_READ_NATIVE_MAX_EXT = 0x27,
	CMD_WRITE_SECTORS = 0x30,
	CMD_WRITE_SECTORS_EXT = 0x34,
	CMD_WRITE_DMA_EXT = 0x35,
	CMD_WRITE_DMA_FUA_EXT = 0x3d,
	CMD_READ_VERIFY = 0x40,
	CMD_READ_VERIFY_EXT = 0x42,
	CMD_INITIALIZE = 0x91,
	CMD_READ_DMA = 0xc8,
	CMD_WRITE_DMA = 0xca,
	CMD_STANDBY_NOW = 0xe0,
	CMD_IDLE_NOW = 0xe1,
	CMD_STANDBY = 0xe2,
	CMD_IDLE = 0xe3,
	CMD_CHECK_POWER = 0xe5,
	CMD_FLUSH = 0xe7,
	CMD_FLUSH_EXT = 0xea,
	CMD_IDENTIFY = 0xec,
	CMD_SET_FEATURES = 0xef,
};

enum {
	FEATURE_WRITE_CACHE_ON = 0x02,
	FEATURE_TRANSFER_MODE = 0x03,
	FEATURE_READ_AHEAD_OFF = 0x55,
	FEATURE_WRITE_CACHE_OFF = 0x82,
	FEATURE_READ_AHEAD_ON = 0xaa,
};

#define LBA28_MAX UINT64_C(0x0fffffff)

bool ata_is_pio(uint8_t command)
{
	return command == CMD_READ_SECTORS || command == CMD_READ_SECTORS_EXT || command == CMD_IDENTIFY;
}

static uint64_t capacity(const struct ahci_port *port)
{
	return block_info(port->disk)->size / ATA_SECTOR;
}

/* ---- IDENTIFY DEVICE (7.16) ---- */

static void put_word(uint8_t *data, unsigned word, uint16_t value)
{
	data[2 * word] = (uint8_t)value;
	data[2 * word + 1] = (uint8_t)(value >> 8);
}

/* Text is padded with blanks, its bytes swapped in each word. */
static void put_text(uint8_t *data, unsigned word, unsigned words, const char *text)
{
	size_t len = strlen(text);

	for (unsigned i = 0; i < 2 * words; i++)
		data[2 * word + (i ^ 1)] = i < len ? (uint8_t)text[i] : ' ';
}

static void put_capacity(uint8_t *data, uint64_t sectors)
{
	uint32_t lba28 = (uint32_t)(sectors < LBA28_MAX ? sectors : LBA28_MAX);
	uint32_t cylinders = lba28 / (16 * 63) < 16383 ? lba28 / (16 * 63) : 16383;

	put_word(data, 1, (uint16_t)cylinders);
	put_word(data, 3, 16);
	put_word(data, 6, 63);
	put_word(data, 54, (uint16_t)cylinders);
	put_word(data, 55, 16);
	put_word(data, 56, 63);
	put_word(data, 57, (uint16_t)(cylinders * 16 * 63));
	put_word(data, 58, (uint16_t)(cylinders * 16 * 63 >> 16));
	put_word(data, 60, (uint16_t)lba28);
	put_word(data, 61, (uint16_t)(lba28 >> 16));
	for (unsigned i = 0; i < 4; i++)
		put_word(data, 100 + i, (uint16_t)(sectors >> (16 * i)));
}

static void identify(const struct ahci_port *port, uint8_t *data)
{
	static const struct {
		uint8_t word;
		uint16_t value;
	} fixed[] = {
		{ 0, 0x0040 },   /* fixed disk */
		{ 47, 0x8000 },  /* no READ MULTIPLE */
		{ 49, 0x2f00 },  /* LBA, DMA, IORDY, timers */
		{ 50, 0x4000 },  /* */
		{ 53, 0x0006 },  /* words 64 to 70 and 88 count */
		{ 63, 0x0007 },  /* multiword DMA 0 to 2 */
		{ 64, 0x0003 },  /* PIO 3, 4 */
		{ 65, 120 },     /* cycle times in ns */
		{ 66, 120 },     /**/
		{ 67, 120 },     /**/
		{ 68, 120 },     /**/
		{ 76, 0x000e },  /* SATA generations 1 to 3 */
		{ 80, 0x01f0 },  /* ATA/ATAPI-4 to ATA8-ACS */
		{ 82, 0x0060 },  /* write cache, look-ahead */
		{ 83, 0x7400 },  /* flush, 48 bits */
		{ 84, 0x4040 },  /* FUA writes */
		{ 86, 0x3400 },  /* as 83 */
		{ 87, 0x4040 },  /* as 84 */
		{ 88, 0x207f },  /* Ultra DMA 0 to 6; 5 is selected */
		{ 217, 0x0001 }, /* nothing rotates */
	};
	uint32_t block = block_info(port->disk)->block_size / ATA_SECTOR, exponent = 0;
	uint8_t sum = 0;

	memset(data, 0, ATA_SECTOR);
	for (size_t i = 0; i < ARRAY_SIZE(fixed); i++)
		put_word(data, fixed[i].word, fixed[i].value);
	put_text(data, 10, 10, port->serial);
	put_text(data, 23, 4, TRAPEZE_VERSION);
	put_text(data, 27, 20, "TRAPEZE DISK");
	put_capacity(data, capacity(port));
	put_word(data, 85, (uint16_t)(0x40 | (port->write_cache ? 0x20 : 0)));
	while (exponent < 15 && 1u << exponent < block)
		exponent++;
	put_word(data, 106, (uint16_t)(exponent ? 0x6000 | exponent : 0x4000)); /* logical sectors a physical one */
	put_word(data, 255, 0xa5);
	for (unsigned i = 0; i < ATA_SECTOR - 1; i++)
		sum += data[i];
	data[ATA_SECTOR - 1] = (uint8_t)-sum;
}

/* ---- commands ---- */

static bool is_ext(uint8_t command)
{
	switch (command) {
	case CMD_READ_SECTORS_EXT:
	case CMD_READ_DMA_EXT:
	case CMD_WRITE_SECTORS_EXT:
	case CMD_WRITE_DMA_EXT:
	case CMD_WRITE_DMA_FUA_EXT:
	case CMD_READ_VERIFY_EXT: return true;
	default: return false;
	}
}

/* The register FIS (Serial ATA 3.0, 10.3.4). */
static void take_registers(struct ata_command *c, const uint8_t *f)
{
	c->command = f[2];
	c->features = f[3];
	c->lba = f[4] | f[5] << 8 | (uint64_t)f[6] << 16;
	if (is_ext(c->command)) {
		c->lba |= (uint64_t)f[8] << 24 | (uint64_t)f[9] << 32 | (uint64_t)f[10] << 40;
		c->sectors = f[12] | (uint32_t)f[13] << 8;
		if (!c->sectors)
			c->sectors = 0x10000;
	} else {
		c->lba |= (uint64_t)(f[7] & 0xf) << 24;
		c->sectors = f[12] ? f[12] : 256;
	}
}

static enum ata_next transfer(struct ahci_port *port, enum block_op op, unsigned flags)
{
	const struct ata_command *c = &port->command;

	if (op == BLOCK_WRITE && block_info(port->disk)->readonly)
		return ATA_ABORT;
	if (c->lba > capacity(port) || c->sectors > capacity(port) - c->lba)
		return ATA_RANGE;
	if (op == BLOCK_WRITE && !port->write_cache)
		flags |= BLOCK_REQ_FUA;
	port->request = (struct block_request){
		.op = op, .flags = flags, .offset = c->lba * ATA_SECTOR, .length = (uint64_t)c->sectors * ATA_SECTOR
	};
	return ATA_REQUEST;
}

static enum ata_next set_features(struct ahci_port *port)
{
	switch (port->command.features) {
	case FEATURE_WRITE_CACHE_ON: port->write_cache = true; return ATA_DONE;
	case FEATURE_WRITE_CACHE_OFF:
		/* From now on what was written is durable: what was written before, too. */
		port->write_cache = false;
		port->request = (struct block_request){ .op = BLOCK_FLUSH };
		return ATA_REQUEST;
	case FEATURE_TRANSFER_MODE:
	case FEATURE_READ_AHEAD_ON:
	case FEATURE_READ_AHEAD_OFF: return ATA_DONE;
	default: return ATA_ABORT;
	}
}

enum ata_next ata_start(struct ahci_port *port, const uint8_t cfis[FIS_SIZE], uint8_t data[ATA_SECTOR])
{
	struct ata_command *c = &port->command;

	take_registers(c, cfis);
	switch (c->command) {
	case CMD_READ_SECTORS:
	case CMD_READ_SECTORS_EXT:
	case CMD_READ_DMA:
	case CMD_READ_DMA_EXT: return transfer(port, BLOCK_READ, 0);
	case CMD_WRITE_SECTORS:
	case CMD_WRITE_SECTORS_EXT:
	case CMD_WRITE_DMA:
	case CMD_WRITE_DMA_EXT: return transfer(port, BLOCK_WRITE, 0);
	case CMD_WRITE_DMA_FUA_EXT: return transfer(port, BLOCK_WRITE, BLOCK_REQ_FUA);
	case CMD_READ_VERIFY:
	case CMD_READ_VERIFY_EXT:
		return c->lba <= capacity(port) && c->sectors <= capacity(port) - c->lba ? ATA_DONE : ATA_RANGE;
	case CMD_FLUSH:
	case CMD_FLUSH_EXT: port->request = (struct block_request){ .op = BLOCK_FLUSH }; return ATA_REQUEST;
	case CMD_IDENTIFY: identify(port, data); return ATA_DATA;
	case CMD_SET_FEATURES: return set_features(port);
	case CMD_READ_NATIVE_MAX_EXT: c->lba = capacity(port) - 1; return ATA_DONE;
	case CMD_CHECK_POWER: c->sectors = 0xff; return ATA_DONE; /* active */
	case CMD_INITIALIZE:
	case CMD_STANDBY_NOW:
	case CMD_IDLE_NOW:
	case CMD_STANDBY:
	case CMD_IDLE: return ATA_DONE;
	default: return ATA_ABORT;
	}
}
