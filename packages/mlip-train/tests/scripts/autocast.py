"""Trains another module with bf16 autocast, accumulation and clipping; argument 2 names the strategy."""

import sys

import lightning.pytorch as pl
import torch

from mlip_train import SyncAfterBackward


class Other(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.layers = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.SiLU(), torch.nn.Linear(16, 1))

    def training_step(self, batch, index):
        x, y = batch
        out = self.layers(x)
        assert out.dtype == torch.bfloat16
        return torch.nn.functional.mse_loss(out.float(), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


if __name__ == "__main__":
    torch.set_num_threads(1)
    x = torch.randn(48, 8, generator=torch.Generator().manual_seed(0))
    data = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, x.sum(1, keepdim=True)), batch_size=4
    )
    strategy = SyncAfterBackward(op="mean", bucket_mib=1e-4) if sys.argv[2] == "sync" else "ddp"
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        devices=2,
        strategy=strategy,
        precision="bf16-mixed",
        accumulate_grad_batches=2,
        gradient_clip_val=0.5,
        gradient_clip_algorithm="value",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Other()
    trainer.fit(module, data)
    if trainer.is_global_zero:
        torch.save(module.state_dict(), sys.argv[3])
